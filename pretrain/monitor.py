"""Health of a run, from what the loss computes anyway."""
import math


def correlation_health(correlation) -> dict[str, float]:
    """losses.Correlation -> how near C is to the identity: mean of its diagonal (1 is the aim) and root mean
    square off the diagonal (0 is the aim; 0.0 for a single dimension)."""
    diagonal = correlation.diagonal.double()
    width = len(diagonal)
    off_diagonal = max(0.0, (correlation.square - diagonal.square().sum()).item())
    return {"diagonal_mean": diagonal.mean().item(),
            "off_diagonal_rms": math.sqrt(off_diagonal / max(1, width * (width - 1)))}

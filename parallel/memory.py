"""Too little memory, said in one line."""
import re
from collections.abc import Callable
from typing import Any

import torch


def within_memory(advice: str, function: Callable, *args: Any) -> Any:
    """Return function(*args). Raises ValueError with the advice where memory does not suffice, a GPU's or a
    limited process's. Both can be pickled, so `launch` takes it."""
    try:
        return function(*args)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"too little GPU memory: {first_sentence(error)}; {advice}") from None
    except (MemoryError, RuntimeError) as error:
        tried = re.search(r"tried to allocate \d+ bytes", str(error))  # torch's, behind a place in its code
        if isinstance(error, MemoryError) or tried:
            found = tried[0] if tried else "none was left"
            raise ValueError(f"too little memory: {found}; {advice}") from None
        raise


def first_sentence(error: Exception) -> str:
    """Return the first sentence of torch's message; the others are figures of the GPU."""
    return " ".join(str(error).split()).split(". ")[0]

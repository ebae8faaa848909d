"""ImageNet's mean and standard deviation, RGB in 0-1, by which all pictures here are normalised.

As in barlowtwins evaluate.py:120-121. Needs no torch.
"""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

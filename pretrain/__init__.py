"""Self-supervised pretraining: images in, `checkpoint.pth` and a backbone file out."""

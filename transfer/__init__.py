"""Transfer of a pretrained ResNet-50: weights in, tasks run, one record each."""

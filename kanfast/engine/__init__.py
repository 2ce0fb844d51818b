"""A layer as a function of tensors, with its gradients: plain torch, native code and Triton."""

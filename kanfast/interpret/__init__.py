"""Training for interpretability, and what can be read off a trained network.

The functions here are the bodies of the methods of `kanfast.KAN` with pykan's names.
"""

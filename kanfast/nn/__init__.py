"""The modules: layers, `KANLinear`, and a network of them, `Network`."""

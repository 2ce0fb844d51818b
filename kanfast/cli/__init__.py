"""The command-line program: `kanfast compare` and `kanfast explain`."""

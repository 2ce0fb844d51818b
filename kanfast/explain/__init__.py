"""From data to a formula in one call: the body of `KAN.explain`.

>>> report = model.explain(dataset)
>>> print(report)                       # the formula, its accuracy, what else was possible
>>> report.rounded.latex(), report.uncertain, report.figures()
"""

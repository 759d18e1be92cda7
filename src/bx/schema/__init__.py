"""JSON Schemas: read, checked against what a family of models takes, fixed to fit, inferred, exemplified."""

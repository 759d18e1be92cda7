"""Amazon Bedrock from the terminal and from Python."""

__version__ = "0.1.0"

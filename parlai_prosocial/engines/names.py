"""What ``--engine`` takes; it loads nothing, so that ``--help`` need not wait."""

ENGINES = ("auto", "transformers", "openvino")

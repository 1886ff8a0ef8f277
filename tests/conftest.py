"""No test may ask a network, and none may depend on the machine's own settings."""

import os

# Set before anything imports huggingface_hub or ParlAI, and inherited by subprocesses.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

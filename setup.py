"""Builds parlai-prosocial, and puts its agent, tasks and zoo where ParlAI looks for them.

ParlAI resolves ``-m prosocial`` to ``parlai.agents.prosocial``, ``-t mic`` to
``parlai.tasks.mic`` and ``zoo:prosocial/...`` to ``parlai.zoo.prosocial``; it has no entry
points. So those folders are installed under ParlAI's own names: this needs no import hook, works
for wheels and editable installs alike, and uninstalls cleanly. ``parlai_internal.scripts`` is where
the ``parlai`` command looks for scripts that are not its own before it reads any file: what must
hold before ``-mf`` is opened starts there. A ``parlai_internal`` of the user's own goes first.

ParlAI itself is not in ``install_requires``: its pins (numpy 1.23, datasets < 2.2.2, ...) would
be pulled in with it and cannot be met next to a current transformers. ``make``,
``prosocial setup`` or ``pip install --no-deps parlai==1.7.2`` add it without them.
"""

from setuptools import find_packages, setup

PARLAI_PACKAGES = {
    "parlai.agents.prosocial": "agents/prosocial",
    "parlai.tasks.mic": "tasks/mic",
    "parlai.tasks.prosocial": "tasks/prosocial",
    "parlai.tasks.diasafety": "tasks/diasafety",
    "parlai.tasks.self_dialogue": "tasks/self_dialogue",
    "parlai.zoo.prosocial": "zoo/prosocial",
    "parlai_internal.scripts": "startup",
}

OURS = [
    "torch>=2.6",
    "transformers>=4.56.2",
    "numpy>=1.26",
    "accelerate>=1.4",
    "click>=8.1",
    "datasets>=4.7",
    "jinja2>=3.1",
    "filelock>=3.12",
    "gguf>=0.16",
    "huggingface_hub>=0.34",
    "peft>=0.14",
    "pydantic>=2.7",
    "safetensors>=0.4.3",
    "scikit-learn>=1.4",
    "tqdm>=4.66.3",
]

# What the parlai command cannot start without.
PARLAI_CORE = [
    "iopath>=0.1.10",
    "joblib>=1.3",
    "packaging>=23",
    "pandas>=2.2",
    "pillow>=10",
    "pyyaml>=6.0.1",
    "requests>=2.31",
    "scipy>=1.12",
    "setuptools<81",  # parlai.core.opt imports pkg_resources, which setuptools 81 dropped
    "urllib3>=2.2",
]

# What single features of it need: coloured logs, metrics, tokenisers, chat services, presets.
PARLAI_FEATURES = [
    "coloredlogs>=15",
    "gitpython>=3.1.40",
    "jsonlines>=4",
    "nltk>=3.8.1",
    "omegaconf>=2.3",
    "py-rouge>=1.1",
    "regex>=2023.10.3",
    "sh>=2.0",
    "subword-nmt>=0.3.8",
    "tornado>=6.3.3",
    "websocket-client>=1.6",
]

TENSORBOARD = ["tensorboardX>=2.6.2"]

# Without these `transformers serve` does not start.
SERVE = ["fastapi>=0.115", "openai>=2.0", "uvicorn>=0.32"]

# The page of `prosocial chat`.
CHAT = ["starlette>=0.40", "uvicorn>=0.32"]

# The oldest that tests/training passes with; before 0.29 DPO's reference was the bare base instead
# of the adapter it starts from.
BENCH = ["trl>=1.0"]

setup(
    name="parlai-prosocial",
    version="0.1.0",
    description="Socially aware contrastive learning for safer dialogue, as a ParlAI plugin",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["parlai_prosocial*"]), *PARLAI_PACKAGES],
    package_dir=PARLAI_PACKAGES,
    package_data={
        "parlai_prosocial": [
            "data/bundled/**/*",
            "evaluation/validation/labels/*.md",
            "evaluation/report/*",
            "evaluation/suites/*",
            "recipes/**/*.opt",
            "recipes/**/*.json",
            "recipes/**/*.md",
            "zoo/entries/**/*",
            "recipes/**/*.yml",
            "chat/page/*",
        ]
    },
    install_requires=[*OURS, *PARLAI_CORE, *PARLAI_FEATURES],
    extras_require={
        "tensorboard": TENSORBOARD,
        "chat": CHAT,
        # Other trainers to compare with: the arms dpo and simpo of `prosocial ablate`.
        "bench": BENCH,
        # A second engine on CPUs, --engine openvino; the first whose requests have seeds of
        # their own that we tried.
        "openvino": ["openvino-genai>=2026.4.1"],
        # A judge for mining; it ships joblib pickles and loads them.
        "profanity": ["alt-profanity-check>=1.4"],
        "dev": [
            *TENSORBOARD,
            *CHAT,
            *SERVE,
            *BENCH,
            "pytest>=8",
            "pytest-regressions>=2.5",
            "pytest-datadir>=1.5",
            "pytest-xdist>=3.6",
            "axe-playwright-python>=0.1.4",  # axe-core, which it brings, in that Chromium
            "playwright>=1.45",  # drives the machine's own Chromium; brings none
            "sacrebleu>=2.4",  # what our BLEU-4 is checked against
            "lm-eval>=0.4.9",  # runs what prosocial export lm-eval writes
            "ruff>=0.9",
            "mypy>=1.14",
        ],
    },
    entry_points={"console_scripts": ["prosocial=parlai_prosocial.cli.main:main"]},
)

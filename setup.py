"""Builds parlai-prosocial, and puts its agent, tasks and zoo where ParlAI looks for them.

ParlAI resolves ``-m prosocial`` to ``parlai.agents.prosocial``, ``-t mic`` to
``parlai.tasks.mic`` and ``zoo:prosocial/...`` to ``parlai.zoo.prosocial``; it has no entry
points. So those folders are installed under ParlAI's own names: this needs no import hook, works
for wheels and editable installs alike, and uninstalls cleanly.
"""

from setuptools import find_packages, setup

PARLAI_PACKAGES = {
    "parlai.agents.prosocial": "agents/prosocial",
    "parlai.tasks.mic": "tasks/mic",
    "parlai.tasks.prosocial": "tasks/prosocial",
    "parlai.tasks.diasafety": "tasks/diasafety",
    "parlai.tasks.self_dialogue": "tasks/self_dialogue",
    "parlai.zoo.prosocial": "zoo/prosocial",
}

setup(
    name="parlai-prosocial",
    version="0.1.0",
    description="Socially aware contrastive learning for safer dialogue, as a ParlAI plugin",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["parlai_prosocial*"]), *PARLAI_PACKAGES],
    package_dir=PARLAI_PACKAGES,
    include_package_data=True,
    package_data={"parlai_prosocial": ["data/bundled/*", "recipes/*/*.opt", "recipes/*/*.md"]},
    entry_points={"console_scripts": ["prosocial=parlai_prosocial.cli.main:main"]},
)

"""A folder uploaded to the Hugging Face hub."""

from pathlib import Path

from parlai_prosocial.errors import UserError


def push_to_hub(folder: Path, repo: str) -> str:
    """Upload a folder, with the login or token that huggingface_hub finds by itself.

    Returns:
        Its address.

    Raises:
        UserError: the hub refuses or cannot be reached. The folder stays.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(folder))
    except Exception as error:  # requests' errors in huggingface_hub 0.x, httpx's in 1.x
        raise UserError(
            f"--push {repo}: not uploaded ({type(error).__name__}); log in by `hf auth login`, "
            f"then run `hf upload {repo} {folder}`"
        ) from None
    return f"https://huggingface.co/{repo}"

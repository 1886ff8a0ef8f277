import pytest

from parlai_prosocial.compat.flags import parse_setting
from parlai_prosocial.errors import UserError


@pytest.mark.parametrize(
    ("setting", "flag"),
    [
        ("learningrate=1e-4", ("learningrate", "1e-4")),
        ("lora_rank=8", ("lora-rank", "8")),
        ("--lora-rank=8", ("lora-rank", "8")),
        ("step1.max_train_steps=3", ("step1.max-train-steps", "3")),
        ("name=a_b=c", ("name", "a_b=c")),
        ("name=", ("name", "")),
    ],
)
def test_a_setting_is_a_flag_and_its_value(setting, flag):
    assert parse_setting(setting) == flag


def test_a_setting_without_a_value_is_named():
    with pytest.raises(UserError, match="--set lora_rank: write it as key=value"):
        parse_setting("lora_rank")

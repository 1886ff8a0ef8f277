from parlai_prosocial.util.missing import MOST_REASONS, OTHER, Missing


def test_each_reason_is_said_once_and_counted(caplog):
    missing = Missing()
    missing.note("model", ["too long", "status 500"])
    missing.note("model", ["too long"])
    assert missing == {"too long": 2, "status 500": 1}
    assert caplog.text.count("model: an answer is missing: too long") == 1


def test_endless_reasons_are_one(caplog):
    missing = Missing()
    missing.note("model", (f"request {i} failed" for i in range(200)))
    assert len(missing) == MOST_REASONS + 1
    assert missing[OTHER] == 200 - MOST_REASONS
    assert len(caplog.records) == MOST_REASONS + 1

"""The last speaker decides who said the rest."""

from parlai_prosocial.models.roles import from_the_user, with_roles


def test_speakers_alternate_backwards_from_the_last():
    for count in range(5):
        turns = [str(i) for i in range(count)]
        for last, other in (("user", "assistant"), ("assistant", "user")):
            messages = with_roles(turns, last)
            assert [m["content"] for m in messages] == turns
            assert [m["role"] for m in messages][::-1] == ([last, other] * 3)[:count]


def test_a_conversation_can_begin_with_the_user():
    for count in range(1, 5):
        turns = from_the_user([str(i) for i in range(count)])
        assert with_roles(turns)[0]["role"] == "user"
        assert turns[-1] == str(count - 1)

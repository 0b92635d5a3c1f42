"""Replies that an engine has at the same moment are returned together, so that one commit stores them."""

from labelkit.engines import Settings, local, open_engine, scripted


def sizes(engine, requests):
    return [len(replies) for replies in engine.together(requests)]


def test_the_scripted_judge_answers_in_blocks(ask):
    requests = [ask("q", str(number)) for number in range(2 * scripted.BLOCK + 3)]
    assert sizes(open_engine("scripted", Settings("overlap")), requests) == [scripted.BLOCK, scripted.BLOCK, 3]


def test_a_model_here_answers_one_forward_pass_at_a_time(tiny_qwen, ask):
    requests = [ask("tea", str(number)) for number in range(7)]
    engine = local.LocalEngine(Settings(str(tiny_qwen), dtype="float32", concurrency=4))
    assert sizes(engine, requests) == [4, 3]

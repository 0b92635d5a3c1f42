"""Write one text, such as a query, from all passages of a window. The text is the reply; it judges no passage."""

from labelkit.judging.methods.steps import Ask, Steps, Verdict
from labelkit.judging.prompts import Prompt
from labelkit.judging.reply_parser import Failure, read_answer

TEXT_TOKENS = 128
"""Token limit of a text; the prompts ask for one sentence or two, and a longer answer is a failure."""


def judge(size: int, prompt: Prompt) -> Steps[list[Verdict]]:
    """Ask for the text. The verdicts tell only whether there is one."""
    text = read_answer((yield Ask("write", tuple(range(size)), max_tokens=TEXT_TOKENS)))
    return [Verdict(failure=text.reason if isinstance(text, Failure) else None)] * size

"""Encode chat turns as the token ids of a prompt."""

from collections.abc import Sequence
from typing import Any

from labelkit.corpora.words import CHARACTERS
from labelkit.engines import Message, Reply, Request, is_pair
from labelkit.engines.text_encoding import TextEncoder


class ChatEncoder:
    """The tokenizer and chat template of a model that runs here."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = TextEncoder(tokenizer.backend_tokenizer)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of chat turns up to the point where the answer begins.

        If the chat template does not support a system turn, its text is put before the user's text. If the model has no
        chat template, the turns are separated by an empty line and the answer begins on a line of its own, where labels
        have the same tokens as elsewhere; the tokenizer then adds the tokens that begin a text.

        A last turn of the assistant is the beginning of the answer. It is left out without a chat template. The query
        and the document of a reranker become the ids of a pair.
        """
        if is_pair(messages):
            pair: list[int] = self._tokenizer(*(message.content for message in messages))["input_ids"]
            return pair
        begun = messages[-1].content if messages[-1].role == "assistant" else ""
        messages = [message for message in messages if message.role != "assistant"] if begun else messages
        if self._tokenizer.chat_template is not None:
            return self.text.ids(self._chat_text(messages) + begun)
        text = "\n\n".join(message.content for message in messages)
        ids: list[int] = self._tokenizer(f"{text}\n\nAnswer:\n")["input_ids"]
        return ids

    def prompt_tokens(self, request: Request, answer: int, *, limit: int) -> list[int] | Reply:
        """Return the token ids of a request's prompt, or a failed reply if prompt and answer do not fit the `limit`.

        `answer` is the number of tokens of the answer. A prompt of megabytes is rejected without tokenising it.
        """
        size = sum(len(message.content) for message in request.messages)
        if size <= CHARACTERS * limit:
            ids = self.encode(request.messages)
            if len(ids) + answer <= limit:
                return ids
        prompt = f"{size} characters" if size > CHARACTERS * limit else f"{len(ids)} tokens"
        rest = "" if request.labels else f" and an answer of {request.max_tokens}"
        return Reply(key=request.key, error=f"prompt of {prompt}{rest} is over the limit of {limit}")

    def _chat_text(self, messages: Sequence[Message]) -> str:
        """Render the chat template, with the system turn in the user's turn if the template does not support it."""
        from jinja2.exceptions import TemplateError

        try:
            text = self._rendered(messages)
        except TemplateError:
            text = ""
        # Some templates refuse a system turn, others drop it silently.
        if any(message.role == "system" and message.content not in text for message in messages):
            text = self._rendered([Message("user", "\n\n".join(message.content for message in messages))])
        return text

    def _rendered(self, messages: Sequence[Message]) -> str:
        turns = [message._asdict() for message in messages]
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

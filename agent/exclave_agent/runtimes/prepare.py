"""From a request's frame to a sequence that can be scheduled: tokens, sampler, output."""

from __future__ import annotations

from collections.abc import Sequence

from exclave_agent.runtimes import frames, tools
from exclave_agent.runtimes.chat import Template
from exclave_agent.runtimes.engine import Output, Refused, Running
from exclave_agent.runtimes.gguf import Gguf
from exclave_agent.runtimes.grammar import MAX_GRAMMAR, Constraint, Grammars
from exclave_agent.runtimes.jobs import EmbedJob, RerankJob
from exclave_agent.runtimes.output import CallReader, Reader
from exclave_agent.runtimes.sampling import LlamaSampler
from exclave_agent.runtimes.schemas import inline, read_schema
from exclave_agent.runtimes.text import StopFilter


class Preparer:
    """Refuses what cannot be served before anything is computed. Safe from any thread."""

    def __init__(
        self,
        gguf: Gguf,
        template: Template | None,
        context_tokens: int,
        embed_tokens: int,
    ) -> None:
        """`embed_tokens`: most of one text to embed."""
        self._gguf = gguf
        self._template = template
        self._context_tokens = context_tokens
        self._embed_tokens = embed_tokens
        self._grammars = Grammars(gguf)
        self._trigger = gguf.reveal(template.calls.trigger) if template is not None else None

    def generate(self, request: frames.Generate) -> Running:
        """Tokenise, compile what constrains the answer and make the sampler. Raises: Refused."""
        sampling = request.sampling
        offered = self._offered(request)
        texts = [message.content for message in request.messages]
        texts += [call.arguments for one in request.messages for call in one.tool_calls]
        self._bound(sum(map(len, texts)) + len(request.prompt or ""), sampling.max_tokens)
        shareable = 0
        if request.prompt is not None:
            prompt = self._gguf.tokenise(request.prompt, True, False)
        elif self._template is None:
            raise Refused("model_not_found", "the model has no chat template")
        else:
            prompt, shareable = self._template.tokens(request.messages, offered)
        if not prompt:
            raise Refused("invalid_value", "prompt: empty", param="prompt")
        if len(prompt) + sampling.max_tokens > self._context_tokens:
            raise self._too_many(f"{len(prompt)}", sampling.max_tokens)
        constraint = self._constraint(request, offered)
        sampler = LlamaSampler(self._gguf, sampling, self._context_tokens, constraint)
        output = self._output(request, offered, constraint)
        return Running(request, prompt, sampler, output, shareable)

    def _offered(self, request: frames.Generate) -> Sequence[frames.ToolFrame]:
        if not request.tools and request.tool_choice != "required":
            return ()
        if self._template is None or request.prompt is not None:
            raise Refused("invalid_value", "tools: only for chat messages", param="tools")
        return tools.check(request)

    def _constraint(
        self, request: frames.Generate, offered: Sequence[frames.ToolFrame]
    ) -> Constraint | None:
        sampling = request.sampling
        if sampling.grammar is not None:
            if sampling.json_schema is not None or offered:
                raise Refused(
                    "invalid_value",
                    "grammar: not together with response_format or tools",
                    param="grammar",
                )
            if len(sampling.grammar) > MAX_GRAMMAR:
                raise Refused(
                    "invalid_value",
                    f"grammar: {len(sampling.grammar)} characters, over {MAX_GRAMMAR}",
                    param="grammar",
                )
            return self._grammars.constraint(sampling.grammar, "grammar", request.caller)
        schema = None
        if sampling.json_schema is not None:
            schema = read_schema(sampling.json_schema, "response_format")
            # By itself first: what is wrong with it is then known to be wrong with it.
            alone = f"%llguidance {{}}\nstart: %json {inline(schema)}\n"
            constraint = self._grammars.constraint(alone, "response_format", request.caller)
            if not offered:
                return constraint
        if not offered or self._template is None:
            return None
        grammar = tools.grammar(
            self._template.calls, request, trigger_token=self._trigger, answer=schema
        )
        return self._grammars.constraint(grammar, "tools", request.caller)

    def _output(
        self,
        request: frames.Generate,
        offered: Sequence[frames.ToolFrame],
        constraint: Constraint | None,
    ) -> Output:
        stops = StopFilter(request.sampling.stop)
        logprobs = request.sampling.top_logprobs is not None
        calls = None
        if offered and self._template is not None:
            form = self._template.calls
            several = request.parallel_tool_calls and form.parallel
            calls = CallReader(form, [tool.name for tool in offered], several=several)
        if calls is None and not logprobs and constraint is None:
            return stops
        return Reader(stops, calls=calls, logprobs=logprobs, constraint=constraint)

    def embed(self, request: frames.Embed) -> EmbedJob:
        """Tokenise the texts. Raises: Refused."""
        if self._gguf.ranks:
            raise Refused("model_not_found", "the model ranks: it does not embed")
        if not request.texts:
            raise Refused("invalid_value", "input: empty", param="input")
        return EmbedJob(request.id, [self._text(text, "input", at)
                                     for at, text in enumerate(request.texts)])  # fmt: skip

    def rerank(self, request: frames.Rerank) -> RerankJob:
        """Tokenise the query with each document. Raises: Refused."""
        if not request.documents:
            raise Refused("invalid_value", "documents: empty", param="documents")
        if not self._gguf.ranks:
            texts = [self._text(request.query, "query")]
            texts += [self._text(one, "documents", at) for at, one in enumerate(request.documents)]
            return RerankJob(request.id, texts, pairs=False)
        if not request.query:
            raise Refused("invalid_value", "query: empty", param="query")
        pairs = [self._pair(request.query, one, at) for at, one in enumerate(request.documents)]
        return RerankJob(request.id, pairs, pairs=True)

    def _pair(self, query: str, document: str, at: int) -> list[int]:
        place = f"documents[{at}] with the query"
        if not document:
            raise Refused("invalid_value", f"documents[{at}]: empty", param="documents")
        longest = self._gguf.longest_piece
        if (size := len(query) + len(document)) > self._embed_tokens * longest:
            raise self._too_long(place, f"at least {size // longest}")
        pair = self._gguf.pair(query, document)
        if len(pair) > self._embed_tokens:
            raise self._too_long(place, f"{len(pair)}")
        return pair

    def _text(self, text: str, name: str, at: int | None = None) -> list[int]:
        place = name if at is None else f"{name}[{at}]"
        if len(text) > self._embed_tokens * self._gguf.longest_piece:
            raise self._too_long(place, f"at least {len(text) // self._gguf.longest_piece}")
        # Of an empty text only the model's own marks would be left, if anything.
        if not text or not (tokens := self._gguf.tokenise(text, True, False)):
            raise Refused("invalid_value", f"{place}: empty", param=name)
        if len(tokens) > self._embed_tokens:
            raise self._too_long(place, f"{len(tokens)}")
        return tokens

    def _bound(self, characters: int, max_tokens: int) -> None:
        """Refuse what cannot fit before spending time on tokenising it."""
        if characters > self._context_tokens * self._gguf.longest_piece:
            least = characters // self._gguf.longest_piece
            raise self._too_many(f"at least {least}", max_tokens)

    def _too_long(self, place: str, count: str) -> Refused:
        return Refused(
            "context_length_exceeded",
            f"{place} has {count} tokens, over the model's {self._embed_tokens}",
        )

    def _too_many(self, prompt: str, max_tokens: int) -> Refused:
        return Refused(
            "context_length_exceeded",
            f"the prompt has {prompt} tokens and max_tokens is {max_tokens}: together more than "
            f"the context of {self._context_tokens} tokens",
        )

"""What a chat template is changed into before it is compiled: the same, with a meter in it."""

from __future__ import annotations

from typing import cast

from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer


class Counting(NodeTransformer):
    """Puts the budget's filters around what costs time or memory without being a call."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def _wrap(self, node: nodes.Node, name: str) -> nodes.Filter:
        wrapped = nodes.Filter(
            cast(nodes.Expr, node), f" {name}", [], [], None, None, lineno=node.lineno
        )
        wrapped.set_environment(self._environment)
        return wrapped

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = self._wrap(node.iter, "counted")
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = cast(nodes.Expr, self._wrap(node.expr, "touched"))
        for operand in node.ops:
            operand.expr = cast(nodes.Expr, self._wrap(operand.expr, "touched"))
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = cast(nodes.Expr, self._wrap(node.node, "touched"))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(nodes.List(node.nodes, lineno=node.lineno), "concatenated")

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(node, "weighed")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return self._wrap(node, "weighed")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx != "load" else self._wrap(node, "weighed")


class Generation(Extension):
    """`{% generation %}`, which marks the assistant's words for training: here it is nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)

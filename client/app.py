"""The Flower ClientApp of a site: parse, ask the learner, check what leaves, reply.

Every refusal is a normal reply with a code and a sentence from a fixed list. What went wrong in
particular stays in the site's own log: it may hold a path or a subject.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.learning.admission import RefusedError
from client.learning.allow_list import Asked, Question
from client.learning.egress import EgressError, release
from client.learning.learner import Learner, open_learner
from client.learning.refusals import refuse
from shared_models.messages import HelloRequest, MessageError, ModelRequest, RefusalCode, Reply
from shared_models.records import decode_hello_request, decode_model_request
from shared_models.weights import WeightsError

SITE_CONFIG = "site-config"
"""Key of the node's own configuration; the coordinator cannot set it."""

logger = logging.getLogger("vultus.site")
app = ClientApp()


@dataclass(frozen=True)
class Outcome:
    """What a site made of a message: its reply, what that answers, and what stays in its log."""

    reply: Reply
    question: Question
    detail: str = ""


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which site this is."""
    # A run begins: what the site changed since the last one, its policy above all, counts now.
    open_learner.cache_clear()
    return _reply(message, context, "hello")


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with one noised step of training."""
    return _reply(message, context, "train")


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the noised tallies of the held-out subjects."""
    return _reply(message, context, "evaluate")


def _reply(message: Message, context: Context, asked: Asked) -> Message:
    learner = open_learner(Path(str(context.node_config[SITE_CONFIG])))
    outcome = _answer_or_refuse(learner, message.content, Question(asked, None, context.node_id))
    return Message(_let_out(outcome, learner), reply_to=message)


def _let_out(outcome: Outcome, learner: Learner) -> RecordDict:
    try:
        return release(outcome.reply, outcome.question, learner, detail=outcome.detail)
    except EgressError:
        logger.exception("What was about to leave is not on the list")
        refusal = refuse(learner.site.id, RefusalCode.INTERNAL)
        return release(refusal, outcome.question, learner)


def _answer_or_refuse(learner: Learner, content: RecordDict, question: Question) -> Outcome:
    site_id = learner.site.id
    try:
        question = replace(question, request=_decode(content, question))
        return Outcome(_answer(learner, question), question)
    except RefusedError as refused:
        return Outcome(refuse(site_id, refused.code, refused.rules), question, str(refused))
    except MessageError as error:
        return Outcome(refuse(site_id, RefusalCode.WRONG_MESSAGE), question, str(error))
    except WeightsError as error:
        return Outcome(refuse(site_id, RefusalCode.WRONG_WEIGHTS), question, str(error))
    except Exception:
        logger.exception("The request could not be answered")
        return Outcome(refuse(site_id, RefusalCode.INTERNAL), question)


def _decode(content: RecordDict, question: Question) -> HelloRequest | ModelRequest:
    if question.asked == "hello":
        return decode_hello_request(content)
    return decode_model_request(content)


def _answer(learner: Learner, question: Question) -> Reply:
    match question.request:
        case HelloRequest() as request:
            return learner.greet(request, node_id=question.node_id)
        case ModelRequest() as request if question.asked == "train":
            return learner.train(request)
        case ModelRequest() as request:
            return learner.evaluate(request)
    msg = "Expected a request"
    raise MessageError(msg)

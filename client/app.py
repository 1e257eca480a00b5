"""The Flower ClientApp of a site: parse, ask the learner, check what leaves, reply.

Every refusal is a normal reply with a code. What is not a refusal and goes wrong is told to the
coordinator as ``internal`` without detail, and written in full to the site's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.learning.admission import RefusedError
from client.learning.anchoring import make_anchor
from client.learning.egress import release
from client.learning.learner import Learner, open_learner
from privacy.audit import AuditLog
from shared_models.messages import (
    MessageError,
    Refusal,
    RefusalCode,
    Reply,
    SiteHello,
    attach_anchor,
    decode_hello_request,
    decode_model_request,
)
from shared_models.weights import WeightsError, trainable_state

SITE_CONFIG = "site-config"
"""Key of the node's own configuration; the coordinator cannot set it."""

logger = logging.getLogger("vultus.site")
app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which site this is."""
    # A run begins: what the site changed since the last one, its policy above all, counts now.
    open_learner.cache_clear()

    def answer(learner: Learner, content: RecordDict) -> Reply:
        return learner.greet(decode_hello_request(content), node_id=context.node_id)

    return _reply(message, context, answer)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with one noised step of training."""
    return _reply(
        message,
        context,
        lambda learner, content: learner.train(decode_model_request(content)),
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer with the noised tallies of the held-out subjects."""
    return _reply(
        message,
        context,
        lambda learner, content: learner.evaluate(decode_model_request(content)),
    )


def _reply(
    message: Message, context: Context, answer: Callable[[Learner, RecordDict], Reply]
) -> Message:
    learner = open_learner(Path(str(context.node_config[SITE_CONFIG])))
    reply = _answer_or_refuse(learner, message.content, answer)
    content = release(
        reply,
        log=AuditLog(learner.site.paths.audit),
        allowed_update=trainable_state(learner.network),
        allowed_tallies=learner.tally_shape(getattr(reply, "server_round", 0)),
    )
    if not isinstance(reply, Refusal | SiteHello):
        attach_anchor(content, make_anchor(learner.site, learner.ledger))
    return Message(content, reply_to=message)


def _answer_or_refuse(
    learner: Learner, content: RecordDict, answer: Callable[[Learner, RecordDict], Reply]
) -> Reply:
    try:
        return answer(learner, content)
    except RefusedError as refused:
        return Refusal(learner.site.id, refused.code, str(refused))
    except MessageError as error:
        return Refusal(learner.site.id, RefusalCode.WRONG_MESSAGE, str(error))
    except WeightsError as error:
        return Refusal(learner.site.id, RefusalCode.WRONG_WEIGHTS, str(error))
    except Exception:  # the detail may hold a path or a subject id: it stays here
        logger.exception("The request could not be answered")
        text = "The site could not answer; its own log says why"
        return Refusal(learner.site.id, RefusalCode.INTERNAL, text)

"""The backend of a mobile app: questions in, an answer as server-sent events out.

    uvicorn backend_fastapi:app

A server-sent event cannot be taken back, so `hold` keeps the first tokens until the policy has seen them;
what is sent after that is final. A client that goes away ends its query.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from edgeai import AsyncEdge, Delta, Done, EdgeError, Policy

POLICY = Policy(privacy="allow", min_score=0.15)  # without EDGEAI_CLOUD nothing can leave all the same


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=4000)
    max_tokens: int = Field(default=200, ge=1, le=2000)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One model for all requests, loaded before the first of them."""
    async with AsyncEdge(cloud=os.environ.get("EDGEAI_CLOUD") or None, policy=POLICY) as edge:
        app.state.edge = edge
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Question, request: Request) -> StreamingResponse:
    return StreamingResponse(answer(request.app.state.edge, question), media_type="text/event-stream")


async def answer(edge: AsyncEdge, question: Question) -> AsyncIterator[str]:
    try:
        # Leaving this block ends the query, also when the client has gone.
        async with edge.stream(question.text, max_tokens=question.max_tokens, hold=16) as stream:
            async for event in stream:
                if isinstance(event, Delta):
                    yield sse("delta", text=event.text, source=event.source)
                elif isinstance(event, Done):
                    yield sse("done", source=event.answer.source, reason=event.answer.reason)
    except EdgeError as error:
        yield sse("error", message=str(error), retryable=error.retryable)


def sse(name: str, **data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"

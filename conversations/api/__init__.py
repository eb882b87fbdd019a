"""The API for programs: the verbs of the chat in the shapes that others' clients know.

callers      who calls: a bearer token, or for some addresses the app's own page
errors       why nothing came of a call, and the OpenAI error object for it
fields       the values of a JSON object, typed and bounded, each error naming its place
limits       how many calls a person may make in a minute
calls        a run for a call, which ends with its client unless the caller wants it kept
completions  POST /v1/chat/completions: what is asked, and the answer in OpenAI's shapes
responses    POST /v1/responses, with what it asks for in `responses_request`
anthropic    POST /v1/messages, with what it asks for in `anthropic_request`, and its answers in
             `anthropic_answer`
complete     GET and POST /api/v1/llm/complete/stream
models       GET /v1/models
"""

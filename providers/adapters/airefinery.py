"""Kind `airefinery`: Accenture's AI Refinery. Source: airefinery.md.

The models behind it are partly vLLM's, and its proxies may take `data:` off the lines: both are
read by what all OpenAI-compatible kinds share.
"""

from providers.adapters.openai_compatible import OpenAICompatible
from providers.adapters.thinking import ThinkTags


class AIRefinery(ThinkTags, OpenAICompatible):
    """The base URL may carry any prefix: older deployments have their API below one."""

    kind = "airefinery"
    label = "AI Refinery"
    default_base_url = "https://api.airefinery.accenture.com/v1"
    needs_key = True
    own_headers = {"Cache-Control": "no-cache"}

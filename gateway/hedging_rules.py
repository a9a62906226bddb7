"""What the configuration says about sending late requests to a second slice as well."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HedgingRules:
    """
    When a request is late, and how many may be sent twice; see gateway.relay.hedges.

    Attributes:
        after_s: Without an answer for so long; 0 for none.
        quantile: In place of it: for longer than so large a share of the model's answers took, such
            as 0.95; 0 for none.
        percent: Of all requests, how many may be sent twice.
    """

    after_s: float = 0.0
    quantile: float = 0.0
    percent: float = 5.0

    @property
    def on(self) -> bool:
        """Anything is sent twice at all."""
        return self.after_s > 0 or self.quantile > 0

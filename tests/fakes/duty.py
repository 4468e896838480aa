"""A duty that a test gives and takes."""


class FakeDuty:
    """Implements `Duty`; `is_held` is what it answers."""

    def __init__(self) -> None:
        self.is_held = True
        self.asked = 0

    async def held(self) -> bool:
        self.asked += 1
        return self.is_held

"""Two tasks that tick, and one that ends the program: ``silly examples/timer_demo.py``."""

from silly import task, time


async def tick(name: str, count: int, seconds: float) -> None:
    """Print *count* lines, *seconds* apart."""
    for number in range(1, count + 1):
        await time.sleep(seconds)
        print(f"[{name}] {number}: {number * seconds:.1f} s", flush=True)


async def end() -> None:
    """Print a last line; nothing is left to do then, so the program ends."""
    await time.sleep(6)
    print("Demo ended", flush=True)


print("Timer demo started", flush=True)
task.fork(tick, "every second", 5, 1)
task.fork(tick, "every half second", 10, 0.5)
task.fork(end)

"""Exercise 2: rooms; what is said is heard in one: ``silly examples/chat/several_rooms.py``."""

import sys

from server import Chat, Complaint, Message, User, main

from silly import task

ROOMS = ("general", "random", "gaming")


class WithRooms(Chat):
    """Three rooms; everybody begins in the first."""

    features = ("rooms",)

    async def greet(self, user: User) -> None:
        """Tell which rooms there are."""
        await super().greet(user)
        self.send(user, "rooms", rooms=ROOMS, room=user.room)

    async def on_join_room(self, user: User, request: Message) -> None:
        """Move *user* to another room; both rooms are told."""
        room = request.get("room")
        if room not in ROOMS:
            raise Complaint(f"The rooms are {', '.join(ROOMS)}")
        about = {"user_id": user.id, "user_name": user.name, "room": room}
        await self.tell(user, "room_changed", **about)
        user.room = room
        await self.tell(user, "room_changed", **about)
        self.send(user, "rooms", rooms=ROOMS, room=room)


if __name__ == "__main__":
    task.fork(main, WithRooms, *sys.argv[1:])

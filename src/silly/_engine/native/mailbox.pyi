from silly._engine.mailbox import Mailbox as Mailbox

from silly._engine.starts import Starts as Starts

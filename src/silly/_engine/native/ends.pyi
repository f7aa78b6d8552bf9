from silly._engine.ends import Ends as Ends

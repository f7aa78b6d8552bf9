from silly._engine.account import Account as Account

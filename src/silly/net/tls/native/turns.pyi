from silly.net.tls.turns import Turns as Turns

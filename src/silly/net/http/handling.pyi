from silly.net.http.bases import Handling as Handling

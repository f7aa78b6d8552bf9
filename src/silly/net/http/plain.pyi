from silly.net.http.bases import Answer as Answer
from silly.net.http.bases import Counts as Counts
from silly.net.http.bases import Dispatcher as Dispatcher
from silly.net.http.bases import Head as Head
from silly.net.http.bases import PlainRequests as PlainRequests
from silly.net.http.bases import encoded as encoded

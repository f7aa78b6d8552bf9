from silly.net.http.bases import FilePart as FilePart
from silly.net.http.bases import OpenFile as OpenFile

from silly.net.http.bases import FilePart as FilePart
from silly.net.http.bases import OpenFile as OpenFile
from silly.net.http.bases import plain_file as plain_file

def use(
    response: object,
    file: object,
    part: object,
    type_of: object,
    fields_of: object,
    remembered: int,
) -> None: ...

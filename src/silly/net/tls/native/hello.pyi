from silly.net.tls.hello import Hello as Hello

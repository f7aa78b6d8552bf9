from silly.net.tls.preface import Handshakes as Handshakes

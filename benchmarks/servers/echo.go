// Go: one goroutine per connection, bufio for lines. Prints its port.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
)

func lines(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		if _, err = conn.Write(line); err != nil {
			return
		}
	}
}

func ping(conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		if _, err := reader.ReadSlice('\n'); err != nil {
			return
		}
		if _, err := conn.Write([]byte("+PONG\r\n")); err != nil {
			return
		}
	}
}

func raw(conn net.Conn) {
	defer conn.Close()
	data := make([]byte, 65536)
	for {
		n, err := conn.Read(data)
		if err != nil {
			return
		}
		if _, err = conn.Write(data[:n]); err != nil {
			return
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	handler := lines
	if len(os.Args) > 1 && os.Args[1] == "raw" {
		handler = raw
	}
	if len(os.Args) > 1 && os.Args[1] == "ping" {
		handler = ping
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go handler(conn)
	}
}

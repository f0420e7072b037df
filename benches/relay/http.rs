//! As much of HTTP/1.1 as both ends here need: blocking, keep-alive, `Content-Length` only. It costs next to nothing, so that the
//! machine is left to what is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing here takes longer.
const TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_LEN_MAX: usize = 16 << 10;
const CHUNK_LEN: usize = 128 << 10;

/// A connection and what was read from it but not yet used.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Of the buffer's bytes, those that came from the stream.
    filled: usize,
    /// The message that was returned last.
    used: usize,
}

/// A message: the head's text and the body's bytes.
#[derive(Debug)]
pub struct Message<'a> {
    /// First line and headers.
    pub head: &'a str,
    /// May be empty.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The status of an answer.
    pub fn status(&self) -> io::Result<u16> {
        let status = self.head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| invalid("an answer without a status"))
    }
}

impl Connection {
    /// Takes over a stream.
    pub fn new(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: vec![0; CHUNK_LEN], filled: 0, used: 0 })
    }

    /// Connects as a client, which does not wait for ever.
    pub fn connect(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Connection::new(stream)
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the next message; `None` if the other side has closed the connection.
    pub fn receive(&mut self) -> io::Result<Option<Message<'_>>> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        let head_len = loop {
            if let Some(end) = self.buffer[..self.filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if self.filled >= HEAD_LEN_MAX {
                return Err(invalid("a head that is too long"));
            }
            match self.fill()? {
                0 if self.filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        };
        let len = head_len + body_len(&self.buffer[..head_len])?;
        if self.buffer.len() < len {
            self.buffer.resize(len + CHUNK_LEN, 0);
        }
        while self.filled < len {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.used = len;
        let (head, body) = self.buffer[..len].split_at(head_len);
        Ok(Some(Message { head: text(head)?, body }))
    }

    fn fill(&mut self) -> io::Result<usize> {
        let read = self.stream.read(&mut self.buffer[self.filled..])?;
        self.filled += read;
        Ok(read)
    }
}

/// One GET on a connection of its own; the status.
pub fn get(address: SocketAddr, path: &str) -> io::Result<u16> {
    let mut connection = Connection::connect(address)?;
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    connection.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?.status()
}

fn body_len(head: &[u8]) -> io::Result<usize> {
    for line in text(head)?.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return value.trim().parse().map_err(|_| invalid("a Content-Length that is no number"));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("a body in chunks"));
        }
    }
    Ok(0)
}

fn text(head: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(head).map_err(|_| invalid("a head that is not text"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

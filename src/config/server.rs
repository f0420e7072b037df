//! `[server]`: where to listen, and what is received.

use std::net::SocketAddr;

use super::check::{Checker, quoted, show};
use super::value::Text;
use super::{ConfigError, KIB, MIB, file};
use crate::wal::record::Meta;
use crate::{protocol, receive, wal};

impl Checker<'_> {
    pub fn listen(&self, listen: Option<&Text>) -> Result<(String, Vec<SocketAddr>), ConfigError> {
        let text = listen.map_or("127.0.0.1:9201", |text| &text.0);
        if text.starts_with(':') {
            let reason = format!(
                "names no address: write \"0.0.0.0{text}\" to listen on all, \"127.0.0.1{text}\" on loopback only"
            );
            return self.bad("server.listen", quoted(text), reason);
        }
        match std::net::ToSocketAddrs::to_socket_addrs(text) {
            Ok(addresses) => Ok((text.to_owned(), addresses.collect())),
            Err(error) => self.bad(
                "server.listen",
                quoted(text),
                format!("must be an address and a port, such as \"127.0.0.1:9201\": {error}"),
            ),
        }
    }

    pub fn receive(&self, server: &file::Server, wal: &wal::Options) -> Result<receive::Settings, ConfigError> {
        // Room for the fields behind the header: forwarded headers and the sender.
        let fields = 64 * KIB;
        let fits = wal::Options::record_bytes_max(wal.segment_bytes) - fields;
        let body_bytes_max = self.size("server.max_body", server.max_body, (32 * MIB).min(fits), 64 * KIB)?;
        if body_bytes_max > fits {
            let reason = format!(
                "must fit into a segment: at most {fits} bytes with wal.segment_size = {}",
                show(wal.segment_bytes)
            );
            return self.bad("server.max_body", show(body_bytes_max), reason);
        }
        let decoded_bytes_max = self.size("server.max_decoded", server.max_decoded, 32 * MIB, 64 * KIB)?;
        if decoded_bytes_max > u64::from(u32::MAX) {
            return self.bad(
                "server.max_decoded",
                show(decoded_bytes_max),
                "must be less than 4GiB, the most that snappy can declare",
            );
        }
        let least = body_bytes_max + decoded_bytes_max;
        let in_flight_bytes_max = self.size("server.max_in_flight_bytes", server.max_in_flight_bytes, least, 0)?;
        if in_flight_bytes_max < least {
            let reason = format!(
                "must be at least server.max_body and server.max_decoded together, {least} bytes, or the largest request would never pass"
            );
            return self.bad("server.max_in_flight_bytes", show(in_flight_bytes_max), reason);
        }
        let mut forward_headers = Vec::new();
        for (number, name) in server.forward_headers.iter().enumerate() {
            let key = format!("server.forward_headers[{number}]");
            let name = self.header_name(&key, &name.0)?;
            if name.as_str().len() > Meta::NAME_LEN_MAX {
                return self.bad(key, quoted(name.as_str()), format!("is longer than {} bytes", Meta::NAME_LEN_MAX));
            }
            forward_headers.push(name);
        }
        let symbols_most = protocol::v2::SYMBOLS_MAX;
        let label_limits = protocol::labels::Limits {
            labels: self.limit("server.max_labels", server.max_labels, protocol::labels::LABELS_MAX)?,
            name_bytes: self.length(
                "server.max_label_name_bytes",
                server.max_label_name_bytes,
                protocol::labels::METRIC_NAME.len() as u64,
            )?,
            value_bytes: self.length("server.max_label_value_bytes", server.max_label_value_bytes, 1)?,
        };
        Ok(receive::Settings {
            body_bytes_max,
            decoded_bytes_max,
            in_flight_bytes_max,
            series_max: self.limit("server.max_series", server.max_series, usize::MAX)?,
            symbols_max: self.limit("server.max_symbols", server.max_symbols, symbols_most)?,
            label_limits,
            forward_headers,
        })
    }
}

//! W3C trace context: a request's trace comes in with `traceparent` or starts here, and goes with
//! the job to every peer.

use axum::http::HeaderMap;
use hansa_core::wire::TraceContext;

use crate::node::Node;

/// The trace of a request; a header that is not a trace context is as none (as W3C demands).
pub fn of(headers: &HeaderMap, node: &Node) -> TraceContext {
    let given = headers.get("traceparent").and_then(|value| parse(value.to_str().ok()?));
    given.unwrap_or_else(|| {
        let drawn: [u8; 24] = node.draw();
        let (trace, span) = drawn.split_at(16);
        let whole = "a part of what was drawn";
        TraceContext {
            trace: trace.try_into().expect(whole),
            span: span.try_into().expect(whole),
            flags: 1,
        }
    })
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, with ids that are not all zero.
fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let version: [u8; 1] = unhex(parts.next()?)?;
    let trace: [u8; 16] = unhex(parts.next()?)?;
    let span: [u8; 8] = unhex(parts.next()?)?;
    let flags: [u8; 1] = unhex(parts.next()?)?;
    let known = version[0] != 0xff && (version[0] != 0 || parts.next().is_none());
    (known && trace != [0; 16] && span != [0; 8]).then_some(TraceContext {
        trace,
        span,
        flags: flags[0],
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? * 16 + digit(pair[1])?;
    }
    Some(bytes)
}

/// Bytes in hexadecimal, for logs.
pub struct Hex<'a>(pub &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_parent_is_read_strictly() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = parse(good).unwrap();
        assert_eq!(Hex(&trace.trace).to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

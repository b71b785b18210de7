//! The listener: HTTP/1.1 and HTTP/2, in the clear or under TLS, with the limits that a public
//! port needs. It knows no route.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Routes;
use crate::limits::*;
use crate::node::Node;
use crate::run::StartError;

/// A bound listener that does not accept yet.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routes: Routes,
    /// No HTTP/1, and so no browser.
    http2_only: bool,
}

impl Server {
    /// Binds the addresses of `[api] http` and, if there is one, `[api] grpc`, and tells the node
    /// what they became.
    pub async fn bind(node: &Arc<Node>) -> Result<Vec<Self>, StartError> {
        let tls = node.tls_config()?.map(TlsAcceptor::from);
        let (listener, addr) = listen("http", node.http_address()).await?;
        node.set_http(addr);
        let routes = Routes::http(node.clone());
        let mut servers = vec![Self { listener, tls: tls.clone(), routes, http2_only: false }];
        if let Some(wanted) = node.grpc_address() {
            let (listener, addr) = listen("grpc", wanted).await?;
            node.set_grpc(addr);
            let routes = Routes::grpc(node.clone());
            servers.push(Self { listener, tls, routes, http2_only: true });
        }
        Ok(servers)
    }

    /// Serves until `stop`, then until every request in progress is answered.
    pub async fn serve(self, stop: CancellationToken) {
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let (stream, from, place) = accepted;
            let http2_only = self.http2_only;
            let (routes, tls, watcher) =
                (self.routes.clone(), self.tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                // A client that says nothing must not hold its place for ever.
                let first = tokio::time::timeout(HTTP_HEADER_TIMEOUT, stream.peek(&mut [0])).await;
                if !matches!(first, Ok(Ok(1..))) {
                    return;
                }
                let served = match tls {
                    None => converse(stream, routes, watcher, http2_only).await,
                    Some(tls) => {
                        match tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, tls.accept(stream)).await
                        {
                            Ok(Ok(stream)) => converse(stream, routes, watcher, http2_only).await,
                            Ok(Err(error)) => Err(error.into()),
                            Err(late) => Err(late.into()),
                        }
                    }
                };
                if let Err(error) = served {
                    tracing::debug!(%from, error, "HTTP connection ended");
                }
                drop(place);
            });
        }
        drop(self.listener);
        graceful.shutdown().await;
    }
}

/// A listener at the address that the config's `key` names.
async fn listen(
    key: &'static str,
    wanted: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let busy = |source| StartError::Listen { key, addr: wanted, source };
    let listener = TcpListener::bind(wanted).await.map_err(busy)?;
    let addr = listener.local_addr().map_err(busy)?;
    tracing::info!(%addr, key, "API listens");
    Ok((listener, addr))
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// The next connection that has a place. A failed accept (no file descriptors left, say) is
/// waited out.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, SocketAddr, Place) {
    let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                // Small answers must not wait for more bytes.
                let _ = stream.set_nodelay(true);
                return (stream, from, place);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One connection, to its end.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Routes,
    watcher: hyper_util::server::graceful::Watcher,
    http2_only: bool,
) -> Result<(), BoxError> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP_HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP_HEADER_TIMEOUT)
        .adaptive_window(true)
        .max_concurrent_streams(HTTP2_STREAMS_MAX);
    let builder = if http2_only { builder.http2_only() } else { builder };
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    watcher.watch(connection.into_owned()).await
}

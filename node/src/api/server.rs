//! The listener: HTTP/1.1 and HTTP/2, in the clear or under TLS, with the limits that a public
//! port needs. It knows no route.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::limits::*;
use crate::node::Node;
use crate::run::StartError;

/// A bound listener that does not accept yet.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
}

impl Server {
    /// Binds the address of `[api] http` and tells the node what it became.
    pub async fn bind(node: &Arc<Node>) -> Result<Self, StartError> {
        let wanted = node.http_address();
        let busy = |source| StartError::Http { addr: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(busy)?;
        let addr = listener.local_addr().map_err(busy)?;
        let tls = node.tls_config()?.map(TlsAcceptor::from);
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!(%addr, scheme, "API listens");
        node.set_http(addr);
        Ok(Self { listener, tls, router: super::router(node.clone()) })
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
            let (router, tls, watcher) =
                (self.router.clone(), self.tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                // A client that says nothing must not hold its place for ever.
                let first = tokio::time::timeout(HTTP_HEADER_TIMEOUT, stream.peek(&mut [0])).await;
                if !matches!(first, Ok(Ok(1..))) {
                    return;
                }
                let served = match tls {
                    None => converse(stream, router, watcher).await,
                    Some(tls) => {
                        match tokio::time::timeout(TLS_HANDSHAKE_TIMEOUT, tls.accept(stream)).await
                        {
                            Ok(Ok(stream)) => converse(stream, router, watcher).await,
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
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), BoxError> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HTTP_HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP_HEADER_TIMEOUT)
        .max_concurrent_streams(256);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    watcher.watch(connection.into_owned()).await
}

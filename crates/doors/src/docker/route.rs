//! Which request goes where: the whole of what is answered, on one page.

use super::{
    body::{Body, drain, empty, whole},
    container,
    events::events,
    fault::{Answer, Fault},
    image, network,
    server::Ask,
    system, volume,
};
use http::{HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};
use yun_api::cloud::InstanceAction;

/// What to do where images would be built.
const BUILD: &str = "yun builds no images from Dockerfiles: build with another program and load the result, as in `buildah build -t NAME . && buildah push NAME docker-archive:NAME.tar:NAME && docker load -i NAME.tar`, or `podman build -t NAME . && podman save NAME | docker load`; `yun image build` makes images from Debian packages";

/// Answers one request.
pub(super) async fn route(mut ask: Ask, method: &Method, path: &[&str]) -> Answer<Response<Body>> {
    const GET: &Method = &Method::GET;
    const HEAD: &Method = &Method::HEAD;
    const POST: &Method = &Method::POST;
    const DELETE: &Method = &Method::DELETE;
    match (method, path) {
        (GET | HEAD, ["_ping"]) => Ok(ping(method == HEAD)),
        (GET, ["version"]) => system::version(ask).await,
        (GET, ["info"]) => system::info(ask).await,
        (GET, ["system", "df"]) => system::df(ask).await,
        (GET, ["events"]) => events(ask).await,
        (POST, ["auth"]) => system::auth(ask).await,

        (GET, ["containers", "json"]) => container::list(ask).await,
        (POST, ["containers", "create"]) => container::create(ask).await,
        (POST, ["containers", "prune"]) => container::prune(ask).await,
        (GET, ["containers", id, "json"]) => container::inspect(ask, id).await,
        (GET, ["containers", id, "logs"]) => container::logs(ask, id).await,
        (GET, ["containers", id, "top"]) => container::top(ask, id).await,
        (POST, ["containers", id, "start"]) => container::act(ask, id, InstanceAction::Start).await,
        (POST, ["containers", id, "stop"]) => container::act(ask, id, InstanceAction::Stop).await,
        (POST, ["containers", id, "restart"]) => container::act(ask, id, InstanceAction::Restart).await,
        (POST, ["containers", id, "pause"]) => container::act(ask, id, InstanceAction::Pause).await,
        (POST, ["containers", id, "unpause"]) => container::act(ask, id, InstanceAction::Resume).await,
        (POST, ["containers", id, "kill"]) => container::kill(ask, id).await,
        (POST, ["containers", id, "wait"]) => container::wait(ask, id).await,
        (POST, ["containers", id, "rename"]) => container::rename(ask, id).await,
        (POST, ["containers", id, "update"]) => container::update(ask, id).await,
        (POST, ["containers", id, "attach"]) => container::attach(ask, id).await,
        (POST, ["containers", id, "resize"]) => container::resize(ask, id).await,
        (POST, ["containers", id, "exec"]) => container::exec_create(ask, id).await,
        (DELETE, ["containers", id]) => container::remove(ask, id).await,
        (GET | HEAD, ["containers", id, "archive"]) => container::read(ask, id, method == HEAD).await,
        (&Method::PUT, ["containers", id, "archive"]) => container::write(ask, id).await,
        (GET, ["containers", _, "stats"]) => Err(later("stats", "see yun node ls for what is used")),
        (GET, ["containers", _, "changes"]) => Err(later("diff", "use docker exec to look inside")),
        (GET, ["containers", _, "export"]) => Err(later("export", "use docker exec with tar inside")),
        (POST, ["exec", id, "start"]) => container::exec_start(ask, id).await,
        (POST, ["exec", id, "resize"]) => container::exec_resize(ask, id).await,
        (GET, ["exec", id, "json"]) => container::exec_inspect(ask, id).await,

        (GET, ["images", "json"]) => image::list(ask).await,
        (POST, ["images", "create"]) => image::pull(ask).await,
        (POST, ["images", "load"]) => image::load(ask).await,
        (POST, ["images", "prune"]) => image::prune(ask).await,
        (GET, ["images", "search"]) => Err(later("search", "look at the registry's own page")),
        (GET, ["images", "get"]) => image::save(ask).await,
        (GET, ["images", .., "get"]) => image::save(ask).await,
        (GET, ["images", name @ .., "json"]) => image::inspect(ask, &name.join("/")).await,
        (GET, ["images", name @ .., "history"]) => image::history(ask, &name.join("/")).await,
        (POST, ["images", name @ .., "tag"]) => image::tag(ask, &name.join("/")).await,
        (POST, ["images", .., "push"]) => Err(later("push", "use yun image export and skopeo copy")),
        (DELETE, ["images", name @ ..]) if !name.is_empty() => image::remove(ask, &name.join("/")).await,
        (GET, ["distribution", ..]) => Err(later("manifest inspect", "use skopeo inspect")),
        (POST, ["commit"]) => Err(later("commit", "build the image with buildah or podman, and docker load it")),
        (POST, ["build", ..] | ["session"] | ["grpc"]) => {
            // Clients send all of the directory before they listen.
            drain(&mut ask.body).await;
            Err(Fault::unsupported(BUILD))
        }

        (GET, ["networks"]) => network::list(ask).await,
        (POST, ["networks", "create"]) => network::create(ask).await,
        (POST, ["networks", "prune"]) => network::prune(ask).await,
        (GET, ["networks", id]) => network::inspect(ask, id).await,
        (DELETE, ["networks", id]) => network::remove(ask, id).await,
        (POST, ["networks", id, "connect"]) => network::connect(ask, id).await,
        (POST, ["networks", id, "disconnect"]) => network::disconnect(ask, id).await,

        (GET, ["volumes"]) => volume::list(ask).await,
        (POST, ["volumes", "create"]) => volume::create(ask).await,
        (POST, ["volumes", "prune"]) => volume::prune(ask).await,
        (GET, ["volumes", name]) => volume::inspect(ask, name).await,
        (DELETE, ["volumes", name]) => volume::remove(ask, name).await,

        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => Err(Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "This node is not a swarm manager: yun places containers itself; see yun node ls",
        )),
        (GET, ["plugins"]) => Ok(super::body::ok(&[(); 0])),
        (_, ["plugins", name, ..]) => Err(Fault::missing(format!("plugin \"{name}\" not found: yun has none"))),
        _ => Err(Fault::missing(format!("page not found: yun does not answer {method} /{}", path.join("/")))),
    }
}

/// A request that is known, and not answered.
fn later(what: &str, instead: &str) -> Fault {
    Fault::unsupported(format!("docker {what} is not supported by yun: {instead}"))
}

fn ping(head: bool) -> Response<Body> {
    let mut response = if head { empty(StatusCode::OK) } else { Response::new(whole("OK")) };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert("cache-control", HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    response
}

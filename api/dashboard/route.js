// The address: everything a page shows is in it, so that back, forward, reload and a sent link all work.

/** The address as path parts and parameters: `#/metrics/views?start=-15m` has the parts `metrics` and `views`. */
export function current() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray % in a link that somebody wrote by hand: there is no such page, which is then said
  }
}

/** The address of a page; parameters that are null or empty are left out, an array stands for several of one name. */
export function to(parts, query = {}) {
  const pairs =
    query instanceof URLSearchParams
      ? [...query]
      : Object.entries(query).flatMap(([name, value]) =>
          (Array.isArray(value) ? value : [value]).map((each) => [name, each]),
        );
  const given = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return `#/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** Go to an address; `replace` leaves no step for the back button. */
export function go(address, { replace = false } = {}) {
  if (address === location.hash) return;
  if (replace) {
    history.replaceState(null, "", address);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else location.hash = address;
}

/** The same page with some parameters changed; null takes one away. */
export function changed(route, changes) {
  const query = new URLSearchParams(route.query);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== null && each !== undefined) query.append(name, each);
    }
  }
  return to(route.parts, query);
}

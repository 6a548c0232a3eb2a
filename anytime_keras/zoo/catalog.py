"""Looks up networks by name in all known zoos."""

from anytime_keras import _errors, _tables
from anytime_keras.zoo import places

FILTERS = {
    "architecture": lambda manifest, entry: manifest.architecture,
    "data": lambda manifest, entry: entry.content["data"]["name"],
    "weighting": lambda manifest, entry: entry.content["weighting"]["name"],
    "trained": lambda manifest, entry: entry.trained,
}
_added: list[places.Folder | places.Site] = []


def _homes():
    """Lists the zoos in lookup order."""
    other = places.from_environment()
    return [places.own(), *([other] if other is not None else []), *_added]


def find(name):
    """Returns the manifest of a network and its zoo."""
    if (home := home_of(name)) is not None:
        return home.manifest(name), home
    hint = _errors.nearest(name, known_names())
    raise ValueError(f"`name` must be a network of the zoo. Received: name={name!r}. {hint}")


def home_of(name):
    """Returns the first zoo with a network of this name, or None. Reads no manifests and none of the later zoos."""
    return next((home for home in _homes() if name in home.names()), None)


def known_names():
    """Lists the names in all zoos, without reading their manifests."""
    return sorted({name for home in _homes() for name in home.names()})


def list_names(**filters):
    """Lists the names of the zoo's networks, a sorted list of str.

    Args:
        **filters: `architecture` (one of `ak.models.names()`), `data` (a data set's name), `weighting` (such as
            `"adaloss"`), `trained` (bool), `loads` (bool: whether they are trained, and the files are here or can be
            downloaded). A name is listed if any of its weights match all filters.

    Raises:
        ValueError: if a filter is unknown, or a manifest is not valid.

    Example:
    >>> import anytime_keras as ak
    >>> ak.zoo.list(data="digits", trained=True)
    ['resann2x16_adaloss_digits']
    """
    return sorted({manifest.name for manifest, *_ in entries(**filters)})


def entries(**filters):
    """Lists (`Manifest`, `Weights`, whether their files are available) that match filters, sorted by name."""
    _errors.check_known(filters, [*FILTERS, "loads"], "`list` has no filter `{}`.")
    names, found = set(), []
    for home in _homes():
        for name in set(home.names()) - names:
            names.add(name)
            manifest = home.manifest(name)
            for entry in manifest.weights.values():
                # An ensemble's members may be in other zoos.
                homes = [home, *filter(None, (home_of(member) for member, _ in entry.members))]
                here = all(any(places.has_file(file, each) for each in homes) for file in entry.files)
                values = {key: value_of(manifest, entry) for key, value_of in FILTERS.items()}
                values["loads"] = entry.trained and here
                if all(values[key] == value for key, value in filters.items()):
                    found.append((manifest, entry, here))
    return sorted(found, key=lambda each: (each[0].name, each[1].label != each[0].default, each[1].label))


def table(found):
    """Returns a text table of a list that `entries` returned."""
    headings = ["network", "weights", "loads", "size", "parameters", "exits", "last exit's accuracy"]
    rows = []
    for manifest, entry, here in found:
        size = f"{sum(file.bytes for file in entry.files) / 1e6:.1f} MB" if entry.trained else "-"
        loads = "not trained" if not entry.trained else "yes" if here else "files missing"
        accuracy = f"{100 * entry.accuracies[-1]:.2f}%" if entry.trained else "-"
        params = _tables.short(entry.content["params"])
        rows.append([manifest.name, entry.label, loads, size, params, str(len(entry.macs)), accuracy])
    return _tables.table(headings, rows, left=3)


def show(name):
    """Returns the `Manifest` of a network, which prints as a summary and has `Weights` for each data set.

    Args:
        name: str, one of `ak.zoo.list()`.

    Raises:
        ValueError: if the name is unknown.

    Example:
    >>> import anytime_keras as ak
    >>> ak.zoo.show("resann2x16_adaloss_digits").weights["digits"].class_names
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
    """
    return find(name)[0]


def add(manifest_or_url):
    """Adds another zoo, or a single network, for this process, and returns the list of names in it.

    Set `ANYTIME_KERAS_ZOO` to add one permanently. Known names keep their meaning.

    Args:
        manifest_or_url: path or https: address of a manifest (.json), or of a directory with `manifests/`, as written
            by `publish`.

    Raises:
        ValueError: if there is no zoo, a manifest is not valid, or a name already refers to another network.
        OSError: if the zoo cannot be reached.

    Example, with a zoo that `ak.zoo.publish` wrote (or `"https://example.org/zoo/manifests/a_network.json"`):

        names = ak.zoo.add("our_zoo")
        model = ak.zoo.load(names[0])
    """
    home = places.place(manifest_or_url)
    manifests = {name: home.manifest(name) for name in home.names()}
    if not manifests:
        raise ValueError(f"'{manifest_or_url}' contains no manifests.")
    for other in _homes():
        for name in set(other.names()) & set(manifests):
            known = other.manifest(name)
            if known.content != manifests[name].content:
                raise ValueError(f"'{other}' already has another network '{name}'. Give the new one another name.")
    _added.append(home)
    return sorted(manifests)

"""From what was sent to what is asked, as far as somebody may ask it."""

from cbmir.errors import CbmirError
from cbmir.filters import Where, parse_all
from cbmir.search.api.access import Principal
from cbmir.search.api.asked import Asked, Part
from cbmir.search.api.body import Sent
from cbmir.search.api.errors import ServiceError, as_service
from cbmir.search.query import Options


def read_filter(conditions: list[str], who: Principal) -> Where:
    """Conditions as they were sent.

    Raises:
        ServiceError: one can't be read, or is about what they may not see.
    """
    try:
        where = parse_all(*conditions)
    except CbmirError as error:
        raise as_service(error, restricted=False) from error
    who.check_filter(where)
    return where


def read_query(sent: Sent, who: Principal) -> Asked:
    """A query as it goes to the engine.

    Raises:
        ServiceError: it can't be asked, or is about what they may not see.
    """
    request = sent.request
    if request.group_by is not None:
        who.check_group(request.group_by)
    if request.box is not None and len(sent.images) != 1:
        raise ServiceError(400, "a box goes with one uploaded image")
    parts = [Part(1.0, data=data) for data in sent.images] + [Part(-1.0, data=data) for data in sent.unlike]
    parts += [Part(1.0, text=request.text)] if request.text is not None else []
    for sign, examples in ((1.0, request.like), (-1.0, request.unlike)):
        for example in examples:
            if (example.id is None) == (example.text is None):
                raise ServiceError(400, "an example has either an id or a text")
            parts.append(
                Part(sign * example.weight, id=None if example.id is None else str(example.id), text=example.text)
            )
    if not any(part.weight > 0 for part in parts):
        raise ServiceError(400, "there is nothing to look for; give an image, text, or an example in like")
    try:
        how = Options(
            k=request.k,
            where=read_filter(request.where, who),
            exclude_same_patient=request.exclude_same_patient,
            skip=request.skip,
            min_score=request.min_score,
            diversity=request.diversity,
            group_by=request.group_by,
        )
    except CbmirError as error:
        raise as_service(error, restricted=False) from error
    return Asked(tuple(parts), how, request.box, request.mix)

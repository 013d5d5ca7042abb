"""读不了的文档：取出那一句话，并检查它写明了文件、只有一行、不带机器路径。"""

from pathlib import Path

import pytest

from labutils.base.errors import LabError
from labutils.dataset.formats import read_pages


def error_of(path):
    with pytest.raises(LabError) as caught:
        read_pages(path)
    message = str(caught.value)
    assert Path(path).name in message and "\n" not in message and str(path.parent) not in message
    return message
